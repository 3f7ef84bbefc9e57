"""Real MCP clients and servers, against which the proxy is proven."""
