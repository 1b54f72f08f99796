"""Getting bytes from the network and from file systems: politely, safely, within limits."""
