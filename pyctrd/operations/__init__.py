"""The operations: pull, ensure, save, push, copy, verify and diagnose. They depend on the ports only."""
