"""The `sslscale` command."""
