"""What a run is told of by itself: what it runs in, what the machine does, what is printed.

environment.py  command line, packages, Python, machine
system.py       CPUs, memory, disk, network; the thread that samples them
cgroups.py      what a container may use of them
gpus.py         NVIDIA GPUs
console.py      what is printed
git.py          the repository that the program lies in, from its files
git_diff.py     what is changed in it, by the program git, within a deadline
"""

SYSTEM_PREFIX = "system/"
"""Begins the tags of what the machine does."""
