"""Object stores: data in S3, and in the many stores that speak its protocol. botocore is imported here alone."""
