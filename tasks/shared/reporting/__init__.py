"""Reading what stages measured: samples, behaviour, purposes of code, nights."""
