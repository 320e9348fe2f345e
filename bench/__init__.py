"""The figures this project claims, each measured by a program of its own, beside a peer where there is one.

`python -m bench` lists and runs them; `python -m bench.join --count 50` runs one at a size of your choice;
`python -m bench.soak` runs the full sizes and writes docs/measurements.md. `harness` is the frame they share,
`samples` its arithmetic. They see a mesh from outside only: by the command, the API and /proc.
"""
