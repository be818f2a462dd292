"""Files, archives, object storage and tables: every byte that crackvae reads or writes passes through here."""
