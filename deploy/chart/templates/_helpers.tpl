{{- define "provident.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "provident.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "provident.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "provident.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "provident.selector" -}}
app.kubernetes.io/name: {{ include "provident.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "provident.labels" -}}
{{ include "provident.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "provident.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "provident.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "provident.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What no schema can say. Called once, by the StatefulSet. */}}
{{- define "provident.check" -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository is not set: build the image from deploy/Dockerfile, push it to a registry that the cluster reaches, and name it there" -}}
{{- end -}}
{{- if not .Values.insecure.acceptPlaintext -}}
{{- fail "this version speaks neither TLS nor knows its callers: keep strangers out (networkPolicy, or a mesh) and say so with insecure.acceptPlaintext=true" -}}
{{- end -}}
{{- if ne (int .Values.replicaCount) 1 -}}
{{- fail "replicaCount must be 1: the embedded journal lies on one volume that one process writes to" -}}
{{- end -}}
{{- if and (eq .Values.probes.kind "grpc") (semverCompare "<1.24.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "probes.kind=grpc needs Kubernetes 1.24 or later, here it is %s: set probes.kind to exec or http" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- with .Values.okta -}}
{{- if and .orgUrl (not .existingSecret) -}}
{{- fail "okta.orgUrl is set without okta.existingSecret: name the Secret that has the private key or the API token" -}}
{{- end -}}
{{- if and .existingSecret (not .orgUrl) -}}
{{- fail "okta.existingSecret is set without okta.orgUrl: name the org to poll, such as https://acme.okta.com" -}}
{{- end -}}
{{- end -}}
{{- with .Values.hook -}}
{{- if and .enabled (not .existingSecret) -}}
{{- fail "hook.enabled is set without hook.existingSecret: name the Secret that has what Okta sends as the Authorization header" -}}
{{- end -}}
{{- if and .ingress.enabled (not .enabled) -}}
{{- fail "hook.ingress.enabled is set without hook.enabled: there is nothing behind the ingress" -}}
{{- end -}}
{{- if and .ingress.enabled (or (not .ingress.host) (not .ingress.tlsSecret)) -}}
{{- fail "hook.ingress needs a host and a tlsSecret: Okta calls HTTPS alone" -}}
{{- end -}}
{{- end -}}
{{- end -}}
