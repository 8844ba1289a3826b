"""What the claims about speed and exactness are measured with; nothing in tinyllm imports it."""
