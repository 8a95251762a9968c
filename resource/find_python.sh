# Read by the executables in lib/: finds the Python that holds cone_perception. Sets $prefix and $python.
prefix=$(cd "$(dirname "$0")/../.." && pwd)
if [ -x "$prefix/bin/python3" ]; then
    python=$prefix/bin/python3            # pip: the environment that holds this file
elif [ -n "${VIRTUAL_ENV:-}" ]; then
    python=$VIRTUAL_ENV/bin/python3       # colcon: the active virtual environment
else
    python=python3                        # colcon with apt's Python
fi
# ROS from PyPI sets no look-up path: packages are found in this environment.
export AMENT_PREFIX_PATH="${AMENT_PREFIX_PATH:-$prefix}"
