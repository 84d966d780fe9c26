"""One client's conversation: login, parameters, pins; and the other side: logging in to a server."""
