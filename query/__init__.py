"""Reserved for the SQL database: catalog, planner, execution; nothing of it exists yet."""
