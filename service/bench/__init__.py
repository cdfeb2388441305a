"""`torchere bench`: how much load a server of the Open Inference Protocol v2 bears, and how fast it answers.

`command.py` reads the command line, `run.py` measures level after level, `process.py` is a client process that puts
the load on. All that decides or counts is pure: `levels`, `arrivals`, `windows`, `summary`, `plot`.
"""
