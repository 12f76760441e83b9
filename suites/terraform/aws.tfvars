# What checkov looks at: with the defaults it would leave out what is not deployed by them.
api_key_hashes      = ["sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"]
bulk                = true
create_model_bucket = true
image_digest        = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
model_uri           = "s3://models/bge-reranker-v2-m3/packed.safetensors"
tracing             = "Active"
