"""What people read: the summary of a campaign, the terminal view, the HTML report."""
