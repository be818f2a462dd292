"""Find cracks in photographs of concrete: train a ConvVAE on sound images, then score every image of a night on Ray."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("crackvae")
except PackageNotFoundError:  # handed to `ray job submit` as a folder, with nothing installed
    __version__ = "0+unknown"
