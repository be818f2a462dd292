"""The network, its score heads, inference, runtimes, calibration and the model directory."""
