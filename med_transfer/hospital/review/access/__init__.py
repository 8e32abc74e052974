"""Who may see what: users, roles, sessions, single sign-on, and the record of who did what."""
