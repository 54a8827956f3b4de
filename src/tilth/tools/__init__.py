"""What the command line and scripts share: reading inputs, rival engines, summaries, a checkup."""
