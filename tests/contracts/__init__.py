"""The contract suite: every engine and every adapter passes the same tests over one table of problems."""
