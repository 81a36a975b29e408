"""The rig: obtains the real peers (containerd, ctr, registries, nerdctl, dockerd) and starts them.

Standard library only, so that the demo can run it before anything is installed.
"""
