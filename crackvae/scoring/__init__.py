"""[Ray Data] Bulk scoring: from listed images to the scores table."""
