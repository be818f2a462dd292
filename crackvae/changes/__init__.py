"""What has changed since the last inspection: pairs of photographs, their registration, and findings matched on it."""
