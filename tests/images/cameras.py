"""Metadata of photographs of real cameras and drones, drawn into test files.

Widths of sensors are those of the manufacturers' specifications.
"""

import io
import math
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

RDF = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:drone-dji="http://www.dji.com/drone-dji/1.0/" '
    b'xmlns:Camera="http://pix4d.com/camera/1.0" %b/></rdf:RDF></x:xmpmeta>'
)


@dataclass(frozen=True)
class Photograph:
    """Values as public samples of a camera have them, by EXIF tag, and the attributes of its XMP.

    Attributes:
        source: the public sample that the values are from.
        sensor_mm: width of the sensor; NaN if it is not known.
    """

    camera: dict[int, Any]
    root: dict[int, Any] = field(default_factory=dict)
    gps: dict[int, Any] = field(default_factory=dict)
    xmp: bytes = b""
    source: str = ""
    sensor_mm: float = math.nan

    def exif(self) -> Image.Exif:
        exif = Image.Exif()
        for tag, value in self.root.items():
            exif[tag] = value
        exif[0x8769] = self.camera
        if self.gps:
            exif[0x8825] = self.gps
        return exif

    def file(self, kind: str = "JPEG", size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
        """A grey image with this metadata."""
        if self.xmp and kind != "TIFF":
            options["xmp"] = RDF % self.xmp
        data = io.BytesIO()
        Image.new("L", size, 128).save(data, kind, exif=self.exif().tobytes(), **options)
        return data.getvalue()


MAVIC_2_PRO = Photograph(
    root={0x010F: "Hasselblad", 0x0110: "L1D-20c"},
    camera={0x9003: "2020:05:22 15:04:51", 0x920A: 10.26, 0xA405: 28, 0xA404: 1.0, 0xA002: 5472, 0xA003: 3648},
    gps={0: b"\2\3\0\0", 1: "N", 2: (61.0, 0.0, 50.2611), 3: "E", 4: (10.0, 45.0, 51.9669), 5: b"\0", 6: 494.0},
    source="github.com/buildingsmart-norway/maskinlesbar_V441, 300_tester/dronefoto_metadata",
    sensor_mm=13.2,
)
ZENMUSE_P1 = Photograph(
    root={0x010F: "DJI", 0x0110: "ZenmuseP1"},
    camera={0x9003: "2021:05:26 10:21:49", 0x920A: 35.0, 0xA405: 35, 0xA002: 8192, 0xA003: 5460},
    xmp=(
        b'drone-dji:GpsLatitude="+29.282190206" drone-dji:GpsLongitude="-94.922448090" '
        b'drone-dji:AbsoluteAltitude="+14.687" drone-dji:RelativeAltitude="+39.839" '
        b'drone-dji:GimbalPitchDegree="-89.90" drone-dji:UTCAtExposure="2021-05-26T15:21:49.073960"'
    ),
)
PHANTOM_4_PRO = Photograph(
    root={0x010F: "DJI\0", 0x0110: "FC6310\0"},
    camera={0x9003: "2018:06:12 10:33:21", 0x920A: 8.8, 0xA405: 24, 0xA002: 5472, 0xA003: 3648},
    xmp=(
        b'drone-dji:GpsLatitude="47.375139" drone-dji:GpsLongtitude="8.533750" '
        b'drone-dji:AbsoluteAltitude="+482.17" drone-dji:RelativeAltitude="+20.10" '
        b'drone-dji:GimbalPitchDegree="-90.00" drone-dji:CalibratedFocalLength="3666.666504"'
    ),
)
PHANTOM_4 = Photograph(
    root={0x010F: "DJI", 0x0110: "FC330"},
    camera={0x9003: "2017:01:26 08:46:24", 0x920A: 3.61, 0xA404: 0.0, 0xA405: 20, 0xA002: 4000, 0xA003: 3000},
    gps={1: "N", 2: (32.0, 28.0, 42.96), 3: "W", 4: (90.0, 15.0, 36.0), 5: b"\0", 6: 109.0},
    xmp=(
        b'drone-dji:AbsoluteAltitude="+109.69" drone-dji:RelativeAltitude="+121.50" '
        b'drone-dji:GimbalPitchDegree="-88.40" drone-dji:GimbalYawDegree="-13.70"'
    ),
    source="github.com/drewnoakes/metadata-extractor-images, jpg/metadata/DJI Phantom 4 (1).jpg.txt",
    sensor_mm=6.17,
)
MAVIC_MINI = Photograph(
    root={0x0110: "FC7203"},
    camera={0x9003: "2020:01:31 18:07:39", 0x920A: 4.49, 0xA405: 24, 0xA002: 4000, 0xA003: 2250},
    gps={1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0), 5: b"\0", 6: 0.0},
)
ANAFI_AI = Photograph(
    root={0x010F: "Parrot", 0x0110: "ANAFIAi"},
    camera={0x9003: "2021:10:20 15:46:02", 0x9011: "+02:00", 0x920A: 5.02, 0xA405: 24, 0xA002: 8000, 0xA003: 6000},
    gps={1: "N", 2: (48.0, 52.0, 43.9), 3: "E", 4: (2.0, 22.0, 4.1), 5: b"\0", 6: 137.5},
    xmp=b'Camera:Pitch="-89.7" Camera:Yaw="12.4"',
)
IPHONE_12 = Photograph(
    root={0x010F: "Apple", 0x0110: "iPhone 12"},
    camera={0x9003: "2023:05:08 20:31:11", 0x9011: "+07:00", 0x9291: "376", 0x920A: 4.2, 0xA405: 26},
    gps={1: "N", 2: (10.0, 46.0, 34.18), 3: "E", 4: (106.0, 41.0, 58.4), 5: b"\1", 6: 3.25},
)
COOLPIX_P6000 = Photograph(
    root={0x010F: "NIKON", 0x0110: "COOLPIX P6000"},
    camera={0x9003: "2008:10:22 16:28:39", 0x920A: 6.0, 0xA405: 28, 0xA404: 0.0, 0xA002: 640, 0xA003: 480},
    gps={
        1: "N",
        2: (43.0, 28.0, 2.814),
        3: "E",
        4: (11.0, 53.0, 6.45599999),
        7: (14.0, 27.0, 7.24),
        29: "2008:10:23",
    },
    source="github.com/ianare/exif-samples, jpg/gps/DSCN0010.jpg",
    sensor_mm=7.44,
)
IPHONE_6 = Photograph(
    root={0x010F: "Apple", 0x0110: "iPhone 6"},
    camera={0x9003: "2014:09:16 14:05:12", 0x9291: "133", 0x920A: 4.15, 0xA405: 29, 0xA002: 3264, 0xA003: 2448},
    gps={
        1: "N",
        2: (51.0, 45.0, 44.67),
        3: "W",
        4: (0.0, 19.0, 4.41),
        5: b"\0",
        6: 111.0,
        7: (13.0, 5.0, 12.05),
        29: "2014:09:259",  # the day of the year, which is no date of the standard
    },
    source="github.com/drewnoakes/metadata-extractor-images, jpg/metadata/apple iphone 6.jpg.txt",
    sensor_mm=4.8,
)
IPHONE_6_PLUS = Photograph(
    root={0x010F: "Apple", 0x0110: "iPhone 6 Plus"},
    camera={0x9003: "2014:10:31 13:32:37", 0x9291: "539", 0x920A: 4.15, 0xA405: 29, 0xA002: 2448, 0xA003: 3264},
    gps={
        1: "N",
        2: (51.0, 28.0, 58.78),
        3: "W",
        4: (3.0, 11.0, 7.21),
        5: b"\1",
        6: 166.0,
        7: (13.0, 32.0, 37.0),
        29: "2014:10:31",
    },
    source="github.com/drewnoakes/metadata-extractor-images, jpg/metadata/apple iphone 6 plus.jpg.txt",
    sensor_mm=4.8 * 3 / 4,  # upright
)
LUMIX_ZS7 = Photograph(
    root={0x010F: "Panasonic", 0x0110: "DMC-ZS7"},
    camera={0x9003: "2015:07:14 13:19:22", 0x920A: 4.1, 0xA404: 0.0, 0xA405: 25, 0xA002: 4000, 0xA003: 3000},
    gps={
        1: "N",
        2: (55.0, 58.0, 20.34),
        3: "E",
        4: (11.0, 22.0, 16.93),
        7: (12.0, 18.0, 57.0),
        9: "A",
        29: "2015:07:14",
    },
    source="github.com/drewnoakes/metadata-extractor-images, jpg/metadata/Panasonic DMC-ZS7.jpg.txt",
)
EOS_40D = Photograph(
    root={0x010F: "Canon", 0x0110: "Canon EOS 40D"},
    camera={
        0x9003: "2008:05:30 15:56:01",
        0x9291: "00",
        0x920A: 135.0,
        0xA20E: 4438.356164,
        0xA210: 2,
        0xA002: 3888,
        0xA003: 2592,
    },
    source="github.com/ianare/exif-samples, jpg/Canon_40D.jpg; the sample is a thumbnail of 3888x2592 px",
    sensor_mm=22.2,
)
