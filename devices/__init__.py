"""What this machine has: every vendor is asked in a process of its own, with a time limit."""
