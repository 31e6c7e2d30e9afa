"""Broken copies of the CloudFormation template, by cfn-lint and by our own checks."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_files import TEMPLATE

from jobs.cluster import cloudformation
from jobs.cluster.cloudformation import check_template, find_open
from jobs.cluster.documents import parse_documents
from jobs.cluster.validate import validate_file

HEAD = "Resources.HeadRole.Properties"
DESTINATION = "Resources.DestinationBucket.Properties"


def broken(resource: dict[str, object]) -> list[tuple[str, str]]:
    return [(each.place, each.code) for each in find_open({"Resources": {"It": resource}})]


@pytest.mark.parametrize(
    ("old", "new", "place", "code"),
    [
        (
            "CidrIp: !Ref OperatorCidr",
            "CidrIp: 0.0.0.0/0",
            "Resources.NodeGroup.Properties.SecurityGroupIngress[0].CidrIp",
            "open_security_group",
        ),
        (
            "SourceSecurityGroupId: !GetAtt NodeGroup.GroupId",
            "CidrIp: 10.0.0.0/8",
            "Resources.NodesAmongEachOther.Properties.IpProtocol",
            "open_security_group",
        ),
        (
            "FromPort: 22\n          ToPort: 22",
            "FromPort: 0\n          ToPort: 65535",
            "Resources.NodeGroup.Properties.SecurityGroupIngress[0].ToPort",
            "open_security_group",
        ),
        (
            "          FromPort: 22\n          ToPort: 22\n",
            "",
            "Resources.NodeGroup.Properties.SecurityGroupIngress[0].ToPort",
            "open_security_group",
        ),
        (
            '    AllowedPattern: "[0-9.]+/[0-9]+"',
            "    Default: 0.0.0.0/0",
            "Parameters.OperatorCidr.Default",
            "open_security_group",
        ),
        (
            "BlockPublicPolicy: true",
            "BlockPublicPolicy: false",
            f"{DESTINATION}.PublicAccessBlockConfiguration.BlockPublicPolicy",
            "open_bucket",
        ),
        (
            "AbortIncompleteMultipartUpload: {DaysAfterInitiation: 7}",
            "ExpirationInDays: 7",
            "Resources.SourceBucket.Properties.LifecycleConfiguration.Rules",
            "unfinished_uploads",
        ),
        (
            "Action: s3:DeleteObject\n            Resource: !Sub",
            "Action: s3:*\n            Resource: !Sub",
            "Resources.UpkeepPolicy.Properties.PolicyDocument.Statement[0].Action",
            "broad_role",
        ),
        (
            "Resource: !GetAtt WorkerRole.Arn",
            'Resource: "*"',
            f"{HEAD}.Policies[1].PolicyDocument.Statement[5].Resource",
            "broad_role",
        ),
        (
            "ManagedPolicyArns: [!Ref NodePolicy]",
            "ManagedPolicyArns: [!Ref NodePolicy, arn:aws:iam::aws:policy/AdministratorAccess]",
            f"{HEAD}.ManagedPolicyArns[1]",
            "broad_role",
        ),
        (
            "ManagedPolicyArns: [!Ref NodePolicy]",
            'ManagedPolicyArns: [!Sub "arn:${AWS::Partition}:iam::aws:policy/AmazonS3FullAccess"]',
            f"{HEAD}.ManagedPolicyArns[0].Sub",
            "broad_role",
        ),
        (
            "Resource: !Sub arn:${AWS::Partition}:s3:::${SourceBucketName}/*\n          - Sid: CreateIn",
            "Resource: arn:aws:s3:::*\n          - Sid: CreateIn",
            "Resources.NodePolicy.Properties.PolicyDocument.Statement[1].Resource",
            "broad_role",
        ),
        (
            "- s3:PutObject\n",
            "- s3:P*\n",
            "Resources.NodePolicy.Properties.PolicyDocument.Statement[2].Action",
            "broad_role",
        ),
        (
            "Action: kms:Decrypt",
            "Action: kms:*",
            "Resources.NodePolicy.Properties.PolicyDocument.Statement[4].If[1].Action",
            "broad_role",
        ),
        (
            "Principal: {Service: ec2.amazonaws.com}",
            "Principal: {AWS: ['*']}",
            f"{HEAD}.AssumeRolePolicyDocument.Statement[0].Principal",
            "broad_role",
        ),
        (
            "                    ec2:MetadataHttpTokens: required\n",
            "",
            f"{HEAD}.Policies[1].PolicyDocument.Statement[1].Condition",
            "imdsv2",
        ),
        (
            "ec2:MetadataHttpTokens: required",
            "ec2:MetadataHttpTokens: optional",
            f"{HEAD}.Policies[1].PolicyDocument.Statement[1].Condition",
            "imdsv2",
        ),
        (
            "ec2:ResourceTag/ray-cluster-name: !Ref ClusterName",
            "aws:RequestedRegion: eu-west-1",
            f"{HEAD}.Policies[1].PolicyDocument.Statement[4].Condition",
            "broad_role",
        ),
        (
            "WorkersCreateOnly\n            Effect: Deny",
            "WorkersCreateOnly\n            Effect: Allow",
            "Resources.DestinationBucketPolicy.Properties.PolicyDocument.Statement[1].Effect",
            "broad_role",
        ),
        (
            "Resource: !GetAtt WorkerRole.Arn\n                Condition",
            "Resource: !Sub arn:${AWS::Partition}:iam::${AWS::AccountId}:role/*\n                Condition",
            f"{HEAD}.Policies[1].PolicyDocument.Statement[5].Resource",
            "broad_role",
        ),
        (
            "StringEquals: {ec2:CreateAction: RunInstances}",
            "StringEquals: {aws:RequestTag/ray-cluster-name: !Ref ClusterName}",
            f"{HEAD}.Policies[1].PolicyDocument.Statement[3].Condition",
            "broad_role",
        ),
        (
            "                Condition:\n                  StringEquals: {ec2:CreateAction: RunInstances}\n",
            "",
            f"{HEAD}.Policies[1].PolicyDocument.Statement[3].Condition",
            "broad_role",
        ),
        (
            '"Null": {s3:if-none-match: "true"}',
            '"Null": {s3:if-match: "true"}',
            "Resources.DestinationBucket",
            "overwritable",
        ),
        (
            'Condition: {Bool: {aws:SecureTransport: "false"}}',
            'Condition: {Bool: {aws:SecureTransport: "true"}}',
            "Resources.DestinationBucket",
            "open_bucket",
        ),
        (
            "              - s3:PutObject\n",
            "              - s3:PutObject\n              - s3:DeleteObject\n",
            "Resources.WorkerRole.Properties.ManagedPolicyArns[0]",
            "broad_role",
        ),
        (
            "      ManagedPolicyArns: [!Ref NodePolicy]\n\n",
            "      ManagedPolicyArns: [!Ref NodePolicy, !Ref UpkeepPolicy]\n\n",
            "Resources.WorkerRole.Properties.ManagedPolicyArns[1]",
            "broad_role",
        ),
        (
            "      Description: Delete objects in the destination of hdrfleet.\n",
            "      Description: Delete objects.\n      Roles: [!Ref HeadRole]\n",
            "Resources.UpkeepPolicy.Properties.Roles",
            "broad_role",
        ),
        (
            "${DestinationBucketName}/*_hdrfleet/probe/*",
            "${DestinationBucketName}/*",
            f"{HEAD}.Policies[0].PolicyDocument.Statement[0]",
            "broad_role",
        ),
        (
            "Principal: {AWS: !GetAtt WorkerRole.Arn}",
            "Principal: {AWS: !GetAtt HeadRole.Arn}",
            "Resources.DestinationBucket",
            "overwritable",
        ),
        (
            "Principal: {AWS: !GetAtt HeadRole.Arn}\n            Action: s3:PutObject",
            "Principal: {AWS: !GetAtt HeadRole.Arn}\n            Action: s3:GetObject",
            "Resources.DestinationBucket",
            "overwritable",
        ),
        (
            "Principal: {AWS: !GetAtt HeadRole.Arn}",
            "Principal: {AWS: !GetAtt WorkerRole.Arn}",
            "Resources.DestinationBucket",
            "overwritable",
        ),
        (
            "iam:PassedToService: ec2.amazonaws.com",
            "aws:RequestedRegion: eu-west-1",
            f"{HEAD}.Policies[1].PolicyDocument.Statement[5].Condition",
            "broad_role",
        ),
    ],
    ids=[
        "group",
        "nodes of a network",
        "every port",
        "every port by silence",
        "default",
        "public",
        "uploads",
        "every action",
        "every role",
        "administrator",
        "full access",
        "every bucket",
        "some actions",
        "choice",
        "everybody in a list",
        "no IMDSv2",
        "IMDSv1",
        "every machine",
        "allowed where it was denied",
        "every role of the account",
        "any machine tagged",
        "any machine tagged, without a word",
        "overwriting",
        "no TLS",
        "deleting",
        "deleting for workers",
        "deleting for the head, by the policy",
        "deleting more than probes",
        "overwriting by workers",
        "reading where writing was meant",
        "overwriting by the head",
        "every service",
    ],
)
def test_what_is_open_is_found_at_its_place(old: str, new: str, place: str, code: str) -> None:
    text = TEMPLATE.read_text()
    assert old in text
    (template,) = parse_documents(text.replace(old, new), TEMPLATE)
    assert (place, code) in [(each.place, each.code) for each in find_open(template)]


def test_destination_without_its_policy_is_found() -> None:
    (template,) = parse_documents(TEMPLATE.read_text(), TEMPLATE)
    del template["Resources"]["DestinationBucketPolicy"]
    found = [(each.place, each.code) for each in find_open(template)]
    assert found == [("Resources.DestinationBucket", "open_bucket"), ("Resources.DestinationBucket", "overwritable")]


@pytest.mark.parametrize(
    "principal",
    [
        {"AWS": ["*"]},
        {"AWS": {"Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:role/${ClusterName}-worker"}},
        {"AWS": {"Fn::GetAtt": ["WorkerRole", "Arn"]}},
        {"AWS": [{"Sub": "${HeadRole.Arn}"}, {"Sub": "${WorkerRole.Arn}"}]},
    ],
)
def test_role_that_may_not_overwrite_is_told_in_any_words(principal: dict[str, object]) -> None:
    (template,) = parse_documents(TEMPLATE.read_text(), TEMPLATE)
    policy = template["Resources"]["DestinationBucketPolicy"]["Properties"]["PolicyDocument"]
    policy["Statement"][1]["Principal"] = principal
    assert list(find_open(template)) == []


def test_policy_of_another_bucket_does_not_count() -> None:
    (template,) = parse_documents(TEMPLATE.read_text(), TEMPLATE)
    template["Resources"]["DestinationBucketPolicy"]["Properties"]["Bucket"] = {"Ref": "SourceBucket"}
    assert {each.code for each in find_open(template)} == {"open_bucket", "overwritable"}


@pytest.mark.parametrize(
    ("bucket", "resource", "is_written"),
    [
        ({}, {"Fn::Sub": "${Bucket.Arn}/*"}, True),
        ({}, {"Fn::Join": ["", [{"Fn::GetAtt": ["Bucket", "Arn"]}, "/*"]]}, True),
        ({}, {"GetAtt": "Bucket.Arn"}, True),
        ({"BucketName": "mine"}, "arn:aws:s3:::mine/*", True),
        ({"BucketName": "mine"}, "arn:aws:s3:::yours/*", False),
        ({"BucketName": {"Ref": "Name"}}, {"Fn::Sub": "arn:${AWS::Partition}:s3:::${Name}/*"}, True),
        ({"BucketName": {"Ref": "Name"}}, {"Fn::Sub": "arn:${AWS::Partition}:s3:::${Other}/*"}, False),
    ],
)
@pytest.mark.parametrize("action", ["s3:PutObject", "s3:Put*"])
def test_bucket_that_is_written_to_is_told_by_what_is_allowed(
    bucket: dict[str, object], resource: object, action: str, *, is_written: bool
) -> None:
    statement = {"Effect": "Allow", "Action": ["s3:GetObject", action], "Resource": resource}
    policy = {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": {"Statement": [statement]}}}
    resources = {"Bucket": {"Type": "AWS::S3::Bucket", "Properties": bucket}, "Policy": policy}
    found = [(each.place, each.code) for each in find_open({"Resources": resources})]
    assert (("Resources.Bucket", "overwritable") in found) is is_written


def test_cfn_lint_is_asked_and_names_the_place(tmp_path: Path) -> None:
    copied = tmp_path / TEMPLATE.name
    text = TEMPLATE.read_text().replace("BucketName: !Ref Dest", "BucketNam: !Ref Dest")
    copied.write_text(text.replace("Roles: [!Ref HeadRole]", "Roles: [!Ref HeadRol]"))
    found = [(each.place, each.code) for each in validate_file(copied, []).findings]
    assert ("Resources.DestinationBucket.Properties.BucketNam", "cfn_E3002") in found
    assert ("Resources.HeadProfile.Properties.Roles[0].Ref", "cfn_E1020") in found


def test_bucket_without_encryption_is_found() -> None:
    found = broken({"Type": "AWS::S3::Bucket", "Properties": {}})
    assert ("Resources.It.Properties.BucketEncryption", "open_bucket") in found


def test_everybody_as_principal_is_found() -> None:
    statement = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/*"}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    found = broken({"Type": "AWS::S3::BucketPolicy", "Properties": {"Bucket": "b", "PolicyDocument": policy}})
    assert found == [("Resources.It.Properties.PolicyDocument.Statement[0].Principal", "broad_role")]


@pytest.mark.parametrize(
    ("change", "places"),
    [
        ({"Action": "S3:GET*"}, []),
        ({"Action": ["s3:*Object*", "s3:GetObject"]}, ["Action"]),
        ({"Action": "s3:Put?bject"}, ["Action"]),
        ({"Action": "*", "Resource": "*"}, ["Action", "Resource"]),
        ({"Resource": ["arn:aws:s3:::b", "arn:aws:s3:::*/*"]}, ["Resource"]),
        ({"Resource": {"Sub": "arn:${AWS::Partition}:s3:::*"}}, ["Resource"]),
        ({"Principal": {"AWS": ["arn:aws:iam::1:root", "*"]}}, ["Principal"]),
        ({"Action": "ec2:RunInstances", "Resource": "arn:aws:ec2:*:*:*/*"}, ["Resource", "Condition"]),
        ({"Action": "ec2:RunInstances", "Resource": "arn:aws:ec2:eu-west-1:1:*"}, ["Resource", "Condition"]),
        ({"Action": "ec2:RunInstances", "Resource": "arn:aws:ec2:eu-west-1:1:subnet/*"}, []),
        (
            {
                "Action": "ec2:RunInstances",
                "Resource": "arn:aws:ec2:*:*:instance/*",
                "Condition": {"StringEqualsIfExists": {"ec2:MetadataHttpTokens": "required"}},
            },
            ["Condition"],
        ),
        ({"Sid": "DenyOthers"}, ["Effect"]),
        ({"Condition": {"Null": {"s3:if-none-match": True}}}, ["Effect"]),
        ({"Condition": {"Null": {"s3:if-none-match": "false"}}}, []),
    ],
)
@pytest.mark.parametrize("is_list", [True, False])
def test_right_that_is_too_wide_is_found(change: dict[str, object], places: list[str], *, is_list: bool) -> None:
    statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/*", **change}
    policy = {"Version": "2012-10-17", "Statement": [statement] if is_list else statement}
    found = broken({"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": policy}})
    where = "Resources.It.Properties.PolicyDocument.Statement" + ("[0]" if is_list else "")
    assert [place for place, _ in found] == [f"{where}.{each}" for each in places]


@pytest.mark.parametrize("name", ["NotAction", "NotResource", "NotPrincipal"])
def test_all_but_a_few_is_found(name: str) -> None:
    statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/*", name: "x"}
    statement.pop(name.removeprefix("Not"), None)
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    found = broken({"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": policy}})
    assert found == [(f"Resources.It.Properties.PolicyDocument.Statement[0].{name}", "broad_role")]


def test_what_denies_and_what_only_looks_is_sound() -> None:
    statements = [
        {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "*"},
        {"Effect": "Allow", "Action": "ec2:DescribeInstances", "Resource": "*"},
    ]
    policy = {"Version": "2012-10-17", "Statement": statements}
    resource = {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": policy}}
    assert broken(resource) == []


def test_it_is_said_when_the_linter_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    (template,) = parse_documents(TEMPLATE.read_text(), TEMPLATE)
    monkeypatch.setattr(cloudformation, "has_linter", lambda: False)
    findings, notes = check_template(template, TEMPLATE)
    assert findings == []
    assert "cfn-lint is not installed" in notes[0]
