"""report.html: one self-contained page from stats, ledgers and a few kept samples."""
