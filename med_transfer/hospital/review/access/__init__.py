"""Access control of the review page: users, roles, sessions, single sign-on, and the audit record."""
