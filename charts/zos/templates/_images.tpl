{{/* The reference of an image. Takes a dict of image (repository, tag, digest) and version. */}}
{{- define "zos.image" -}}
{{- $tag := .image.tag | default (ternary "" .version (ne .image.digest "")) -}}
{{- .image.repository }}{{ with $tag }}:{{ . }}{{ end }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "zos.image.controller" -}}
{{ include "zos.image" (dict "image" .Values.images.controller "version" .Chart.AppVersion) }}
{{- end }}

{{- define "zos.image.node" -}}
{{ include "zos.image" (dict "image" .Values.images.node "version" .Chart.AppVersion) }}
{{- end }}

{{/* Of the runtime: one of its own where any of it is told, else that of the agents. */}}
{{- define "zos.image.runtime" -}}
{{- $own := .Values.images.runtime -}}
{{- if or $own.repository $own.tag $own.digest -}}
{{ include "zos.image" (dict "image" (dict "repository" ($own.repository | default .Values.images.node.repository) "tag" $own.tag "digest" $own.digest) "version" .Chart.AppVersion) }}
{{- else -}}
{{ include "zos.image.node" . }}
{{- end }}
{{- end }}
