# What checkov looks at: with the defaults it would leave out what is not deployed by them.
subscription_id = "00000000-0000-0000-0000-000000000000"
image           = "reranker@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
gpu_image       = "reranker-gpu@sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
functions_image = { repository = "reranker-functions", tag = "1.0.0" }
api_keys        = ["sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"]
alert_email     = "ops@example.org"
