"""The stream: order, plan, read, yield."""
