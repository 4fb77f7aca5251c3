"""A demonstration: a real workspace goes to a real S3 server and comes back, driven through an agent."""
