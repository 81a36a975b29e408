"""The verbs: pull, ensure, save, push, copy, verify and diagnose, each on the ports alone."""
