"""What other processes do with a dead run: its ring and journal read, sent, removed."""
