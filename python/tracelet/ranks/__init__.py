"""Jobs of many processes: which rank of which job this process is."""
