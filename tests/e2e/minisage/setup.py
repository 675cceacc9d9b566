# A stand-in for upstream's release: the same shape, small kernels, and as unfit for one wheel of all architectures.
from setuptools import find_packages, setup

setup(
    name='sageattention',
    version='2.2.0',
    packages=find_packages(),
    python_requires='>=3.9',
)
