output "bucket" {
  description = "Bucket whose in/ takes files of pairs and whose out/ gets their scores."
  value       = module.bucket.name
}

output "state_machine_arn" {
  description = "The machine that scores files of pairs."
  value       = aws_sfn_state_machine.bulk.arn
}
