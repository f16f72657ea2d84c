"""While a multicri pod hangs or fails, in any way there is, an ordinary pod's calls go on as before."""
