{{/* Labels of every object. Takes the root context. */}}
{{- define "zos.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: zos
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* By what a workload knows its pods: it can't be changed later, so it holds nothing that a release could. Takes a component. */}}
{{- define "zos.selector" -}}
app.kubernetes.io/name: zos
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* Generated documents with the chart's labels. Takes a dict of root, documents (text), and without (a list of "Kind name"). */}}
{{- define "zos.labelled" -}}
{{- range splitList "\n---\n" .documents }}
{{- $object := fromYaml . }}
{{- if not (has (printf "%s %s" $object.kind $object.metadata.name) $.without) }}
---
{{- /* Merging writes into what it is given: labels of one object, by which rights are aggregated, must not become the next one's. */}}
{{- $labels := include "zos.labels" $.root | fromYaml }}
{{ toYaml (mustMergeOverwrite (dict "metadata" (dict "labels" $labels)) $object) }}
{{- end }}
{{- end }}
{{- end }}
