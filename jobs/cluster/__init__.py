"""Checks of the files that describe a cluster, offline: for Ray's launcher, KubeRay, CloudFormation and Docker."""
