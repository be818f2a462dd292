"""From image bytes to tiles; labelled manifests, groups, duplicates and synthetic concrete."""
