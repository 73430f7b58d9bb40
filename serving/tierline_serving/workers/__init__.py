"""One port, several processes: who starts them, what they share, how they act as one."""
