"""`python -m sslscale` is the `sslscale` command."""

from sslscale.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
