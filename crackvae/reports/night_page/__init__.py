"""The page of a night. Only night_page and what it draws with import Matplotlib, which needs a folder for its cache."""
