"""A coding agent drives a campaign over the Model Context Protocol; judge and hidden split stay on our side."""
