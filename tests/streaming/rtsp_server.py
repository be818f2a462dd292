"""An RTSP server on loopback, for the Python of a Debian system with gir1.2-gst-rtsp-server-1.0 and python3-gi.

`/usr/bin/python3 rtsp_server.py FRAMES.npy PORT FPS` shows grey frames, uint8 (N, H, W), in turn, H.264 at
rtsp://127.0.0.1:PORT/live. The time of each frame is drawn into its top left corner, see clock_of().
"""

import sys
import time

BITS, BIT_PX = 48, 16


def draw_clock(pixels_HW, now_ms: int) -> None:
    """Draw a time [ms] as black and white squares from the top left corner to the right, lowest bit first."""
    for bit in range(BITS):
        pixels_HW[:BIT_PX, bit * BIT_PX : (bit + 1) * BIT_PX] = 255 * (now_ms >> bit & 1)


def clock_of(pixels_HW) -> int:
    """The time [ms] that draw_clock() has drawn."""
    middle = BIT_PX // 2
    return sum(int(pixels_HW[middle, bit * BIT_PX + middle] > 127) << bit for bit in range(BITS))


def serve(frames_file: str, port: str, fps: int) -> None:
    """Serve until the process is ended."""
    import gi
    import numpy as np

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    frames_NHW = np.load(frames_file)
    _, height, width = frames_NHW.shape

    class Factory(GstRtspServer.RTSPMediaFactory):
        def do_create_element(self, url):
            caps = f"video/x-raw,format=GRAY8,width={width},height={height},framerate={fps}/1"
            return Gst.parse_launch(
                f"appsrc name=frames is-live=true format=time do-timestamp=true caps={caps} ! videoconvert ! "
                "video/x-raw,format=I420 ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=50 bitrate=8000 "
                "! rtph264pay name=pay0 pt=96 config-interval=1"
            )

        def feed(self, media):  # do_configure would be called a second time, and each frame come twice as often
            source = media.get_element().get_child_by_name("frames")
            state = {"number": 0, "due": time.monotonic()}

            def push(*_):
                time.sleep(max(0.0, state["due"] - time.monotonic()))
                state["due"] = max(state["due"] + 1 / fps, time.monotonic() - 1)
                pixels_HW = frames_NHW[state["number"] % len(frames_NHW)].copy()
                draw_clock(pixels_HW, time.time_ns() // 1_000_000)
                source.emit("push-buffer", Gst.Buffer.new_wrapped(pixels_HW.tobytes()))
                state["number"] += 1

            source.connect("need-data", push)

    factory = Factory()
    factory.set_shared(True)
    factory.connect("media-configure", lambda _, media: factory.feed(media))
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    server.get_mount_points().add_factory("/live", factory)
    server.attach(None)
    print("serving", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
