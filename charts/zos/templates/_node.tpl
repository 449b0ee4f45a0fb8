{{/* What the pods of both DaemonSets of a pool have in common. Takes a dict of root, pool, and of (values of node or runtime). */}}
{{- define "zos.node.placement" -}}
# What they do for the node they do as the node: networks, guests and mounts are its own, and outlive these pods.
hostNetwork: true
hostPID: true
dnsPolicy: Default
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
nodeSelector:
  {{- toYaml (mustMergeOverwrite (dict) (.pool.nodeSelector | default dict) (dict "zos.grid.tf.node-restriction.kubernetes.io/node" "true")) | nindent 2 }}
{{- with .of.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}

{{/* Metadata of a pod. Takes a dict of root, component, of, and pool (its name; may be absent). */}}
{{- define "zos.pod.metadata" }}
{{- with .of.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $selected := include "zos.selector" .component | fromYaml }}
{{- $pool := ternary (dict "zos.grid.tf/pool" .pool) (dict) (hasKey . "pool") }}
labels:
  {{- toYaml (mustMergeOverwrite (dict) .root.Values.commonLabels .of.extraLabels $selected $pool) | nindent 2 }}
{{- end }}
