"""The command `gpusnap-agent`."""


def main() -> None:
    """Runs `gpusnap-agent`."""
    raise SystemExit("gpusnap-agent: not assembled yet")


if __name__ == "__main__":
    main()
