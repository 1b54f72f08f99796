"""One file per kind of source: raw input to samples whose media are still to be fetched."""
