"""Plans of runs on pods: memory, communication and a roofline from ahead-of-time compilation."""
