"""Findings as annotations that programs for labelling open: COCO, CVAT and Label Studio."""
