"""Installs the ROS packages cone_perception and training, with pip or with colcon."""

from glob import glob

from setuptools import Distribution, find_packages, setup

PACKAGE_XML = {'cone_perception': 'package.xml', 'training': 'training/package.xml'}

# What ros2 looks up: per package a marker, a package.xml and executables; launch files, settings.
data_files = [
    ('share/ament_index/resource_index/packages', [f'resource/{name}' for name in PACKAGE_XML]),
    ('share/cone_perception', ['resource/find_python.sh']),
    ('share/cone_perception/launch', sorted(glob('launch/*.launch.py'))),
    ('share/cone_perception/config', sorted(glob('config/*.yaml'))),
    ('share/cone_perception/config/sros2', ['config/sros2/detector_policy.xml']),
    ('share/training/config', sorted(glob('config/training/*'))),
]
for name, package_xml in PACKAGE_XML.items():
    data_files += [
        (f'share/{name}', [package_xml]),
        (f'lib/{name}', sorted(glob(f'resource/lib/{name}/*'))),
    ]


class RosDistribution(Distribution):
    """Has what editable_wheel asks for before it installs data_files for `pip install -e`."""

    def has_data(self):
        return bool(self.data_files)


setup(
    distclass=RosDistribution,
    packages=find_packages(include=['cone_perception*', 'training*']),
    data_files=data_files,
    python_requires='>=3.10',  # in setup.cfg it becomes an object that colcon cannot read
)
