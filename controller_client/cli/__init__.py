"""The command `gpusnap`."""
