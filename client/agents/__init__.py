"""The MCP server of ``dkd mcp``: calls of the public API as tools for programs that run experiments."""
